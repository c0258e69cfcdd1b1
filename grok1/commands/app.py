"""Train Grok-1, check it against xAI's model, and move text and weights in and out. Bad input ends with exit code 2."""

from __future__ import annotations

from grok1.cli import console
from grok1.commands.generate import generate
from grok1.commands.preprocess import own_corpus, preprocess_command
from grok1.commands.recipes import recipes
from grok1.commands.train import own_folders, train
from grok1.commands.verify import verify
from grok1.commands.weights import convert, own_checkpoint, own_weights, seal

app = console.with_version(console.App(help=__doc__, add_completion=True))
app.command(fills=own_folders)(train)
app.command()(verify)
app.command()(generate)
app.command(fills=own_weights)(convert)
app.command(fills=own_checkpoint)(seal)
app.command()(recipes)
app.command(name="preprocess", fills=own_corpus)(preprocess_command)
