"""How a command line of ours ends: exit codes, one line for bad input, no trace of Ctrl-C. No torch.

Messages hold words that strangers wrote (a file's, a log's, a name's). What is printed here steers no terminal.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
import textwrap
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from grok1.cli import interruption
from grok1.cli.json_option import json_alone_on_stdout
from grok1.cli.outputs import Filled, Fills, check_outputs, name_of
from grok1.cli.versions import versions
from grok1.config.refusals import printable, printable_lines

Function = TypeVar("Function", bound=Callable[..., Any])

_INTERRUPTED = 130  # what typer returns of Ctrl-C
_LEAST_USAGE = 20  # columns beside the name of the command
_OUTPUT = "its output"  # where the system names no file
_READER_GONE = 141  # 128 + SIGPIPE


class App(typer.Typer):
    """Commands with plain help that nothing cuts, and that refuse an option given twice: only one value could count.

    No output of a command takes the place of what it reads. `is_kept` says of a file in a folder that was given whether
    commands read it there; that of the outermost app counts.
    """

    def __init__(self, is_kept: Callable[[Path], bool] | None = None, **settings: Any) -> None:
        settings = {"no_args_is_help": True, "rich_markup_mode": None, "add_completion": False, **settings}
        super().__init__(
            cls=_Group,
            pretty_exceptions_enable=False,
            context_settings={"help_option_names": ["-h", "--help"], "obj": is_kept},
            **settings,
        )

    def command(
        self,
        name: str | None = None,
        *,
        fills: Fills | None = None,
        forgets: Callable[[Path], None] | None = None,
        **settings: Any,
    ) -> Callable[[Function], Function]:
        """As typer's. `fills` tells of files that the command names itself, `forgets` removes verdicts of before.

        What `--json` and `--junitxml` name is forgotten where the command line is refused: the command does it else.
        """
        kind = type("_Command", (_Command,), {"fills": staticmethod(fills or _nothing), "forgets": forgets})
        return super().command(name, **{"cls": kind, **settings})


def _show_version(wanted: bool) -> None:
    if wanted:
        print(versions())
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show versions and exit.")
]


def with_version(app: App) -> App:
    """The same, with --version: for a program of its own, not for a group of commands."""

    @app.callback()
    def root(version: Version = False) -> None: ...

    return app


def into(parameter: str, patterns: Sequence[str]) -> Fills:
    """Of a command that puts files of these names, as `Filled` has them, into the folder that an option names."""

    def fills(values: Mapping[str, Any]) -> Iterator[Filled]:
        yield Filled(f"--{parameter}", values[parameter], patterns)

    return fills


def _nothing(values: Mapping[str, Any]) -> Iterable[Filled]:
    return ()


class _Command(TyperCommand):
    fills: Fills
    forgets: Any

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = tuple(args)  # the parser takes them away
        try:
            return self._parsed(ctx, args)
        except typer.Exit:  # of --help
            raise
        except Exception:
            if (forgets := type(self).forgets) is not None:
                for path in _named_by(_VERDICTS, words):
                    with contextlib.suppress(ValueError):  # the command line's own fault is told
                        forgets(path)
            raise

    def _parsed(self, ctx: Any, args: list[str]) -> list[str]:
        given, _, in_turn = self.make_parser(ctx).parse_args(args=list(args))
        for parameter in self.params:
            named = given.get(parameter.name)
            if _is_path(parameter) and "" in (named if isinstance(named, list | tuple) else [named]):
                raise ValueError(f"{name_of(parameter)} is empty, which would be the current folder; name it, as `.`")
        for option, times in Counter(in_turn).items():
            takes_one = isinstance(option, TyperOption) and not (option.multiple or option.is_flag or option.count)
            if takes_one and times > 1:
                raise ValueError(f"{name_of(option)} is given {times} times, and only one can count; give it once")
        return list(super().parse_args(ctx, args))

    def invoke(self, ctx: Any) -> Any:
        check_outputs(self.params, ctx.params, ctx.obj, self.fills(ctx.params))
        with json_alone_on_stdout(ctx.params):
            return super().invoke(ctx)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """With the options that must be given, which typer leaves out."""
        options = [each for each in self.params if isinstance(each, TyperOption)]
        arguments = [each for each in self.params if isinstance(each, TyperArgument)]
        return [
            *(f"{max(each.opts, key=len)} {each.metavar or 'VALUE'}" for each in options if each.required),
            self.options_metavar or "",
            *(_usage_of(each) for each in arguments),
        ]

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        """Typer breaks lines at the hyphens of options, and between an option and its value."""
        prefix = f"Usage: {ctx.command_path} "
        room = formatter.width - len(prefix)
        start, indent = (prefix, " " * len(prefix)) if room >= _LEAST_USAGE else (f"{prefix}\n    ", " " * 4)
        whole = [piece.replace(" ", "\0") for piece in self.collect_usage_pieces(ctx)]
        lines = textwrap.wrap(
            " ".join(whole), formatter.width - len(indent), break_on_hyphens=False, break_long_words=False
        )
        formatter.write(f"{start}{f'{chr(10)}{indent}'.join(lines)}\n".replace("\0", " "))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """One section for each group of options, in the order in which they are declared."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for each in self.get_params(ctx):
            if (record := each.get_help_record(ctx)) is not None:
                is_option = isinstance(each, TyperOption)
                title = getattr(each, "rich_help_panel", None) or ("Options" if is_option else "Arguments")
                sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _is_path(parameter: Any) -> bool:
    """Whether it was declared as a path, or as several; versions of typer keep that in different places."""
    return "Path" in repr(vars(parameter))


_VERDICTS = ("--json", "--junitxml")


def _named_by(options: Sequence[str], words: Sequence[str]) -> Iterator[Path]:
    """What these options name on a command line that may be wrong elsewhere."""
    for index, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option == "--":
            return
        if option in options and (named := value if equals else "".join(words[index + 1 : index + 2])):
            yield Path(named)


def _usage_of(argument: TyperArgument) -> str:
    name = argument.metavar or (argument.name or "").upper() + "..." * (argument.nargs != 1)
    return name if argument.required else f"[{name}]"


class _Group(TyperGroup):
    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Each with the first paragraph of its help, whole."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, " ".join((each.help or "").partition("\n\n")[0].split()))
            for name, each in commands
            if each is not None and not each.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def run(app: typer.Typer, name: str, failures: tuple[type[Exception], ...] = ()) -> NoReturn:
    """Run a command and exit: 0 done, 2 the input was refused, 130 interrupted; 1 where the command says so.

    `failures` are errors whose message says all there is to say: it is printed, and 1 is the exit code. What the
    system refuses (a full disk, a folder that may not be written) is one line too, and the exit code is 2. Where the
    reader of what is printed has gone it is 141, without a word.
    """
    interruption.unwind()  # a job that is told to end must end its ranks
    if sys.stdout is None:  # so Python has what was closed when it started
        _tell(f"{name}: {_OUTPUT} is closed: leave it open, or send it to {os.devnull}")
        sys.exit(2)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that is not UTF-8 is shown, not refused
    try:
        code = _command_of(app)(standalone_mode=False)
    except BaseException as error:
        _exit_for(name, error, failures)
    if interruption.came() or code == _INTERRUPTED:
        _exit_interrupted(name)
    _leave(name, code or 0)


@functools.cache
def _command_of(app: typer.Typer) -> Any:
    """Once a process: it takes typer as long as many a command runs, and tests run hundreds in one process."""
    return get_command(app)


def _exit_for(name: str, error: BaseException, failures: tuple[type[Exception], ...]) -> NoReturn:
    # what C code makes of Ctrl-C may be an error of any kind
    if interruption.came() or isinstance(error, KeyboardInterrupt | typer.Abort):
        _exit_interrupted(name)
    if isinstance(error, typer.Exit):
        _leave(name, error.exit_code)
    if isinstance(error, ValueError):
        _refuse(name, str(error))
    # typer makes sys.exit(1) of a gone reader, which would be a verdict's FAIL
    cause = error.__context__ if isinstance(error, SystemExit) else error
    if isinstance(cause, BrokenPipeError):
        _drop_output()
        sys.exit(_READER_GONE)
    if isinstance(error, OSError):
        _exit_for_system(name, error)
    if isinstance(error, failures):
        _tell(f"{name}: {printable_lines(str(error))}")
        _leave(name, 1)
    if not isinstance(error, Exception):
        raise error
    _exit_for_usage(name, error)


def _exit_interrupted(name: str) -> NoReturn:
    if interruption.came():
        interruption.leave(name)
    _tell(f"{name}: {interruption.told()}")
    _leave(name, interruption.exit_code())


def _exit_for_system(name: str, error: OSError) -> NoReturn:
    if error.filename is None:
        _flush(name)
    where = _OUTPUT if error.filename is None else os.fsdecode(error.filename)
    _refuse(name, f"{where}: {error.strerror or error}")


def _refuse(name: str, message: str) -> NoReturn:
    _tell(f"{name}: {printable(' '.join(message.split()))}")
    _leave(name, 2)


def _exit_for_usage(name: str, error: Exception) -> NoReturn:
    """Typer's own complaints (an unknown option, a bad number) print as they do by default; others are ours to fix."""
    show = getattr(error, "show", None)
    if show is None:
        _tell(printable_lines("".join(traceback.format_exception(error))).rstrip())
        _leave(name, 1)
    words = io.StringIO()
    show(words)
    _tell(printable_lines(words.getvalue()).rstrip())
    _leave(name, getattr(error, "exit_code", 2))


def _leave(name: str, code: int) -> NoReturn:
    _flush(name)
    sys.exit(code)


def _flush(name: str) -> None:
    """All that was printed goes out; a disk that is full ends us, and so does a reader that has gone, in silence."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _drop_output()
        if isinstance(error, BrokenPipeError):
            sys.exit(_READER_GONE)
        _tell(f"{name}: {_OUTPUT}: {error.strerror}")
        sys.exit(2)


def _drop_output() -> None:
    """Nothing more goes out: Python flushes again when it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell(words: str) -> None:
    """To stderr; where nobody reads it, the exit code says it."""
    with contextlib.suppress(OSError):
        print(words, file=sys.stderr)
