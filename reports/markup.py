"""HTML of our own making: whatever is not Html is a stranger's word, and is shown as plain text of one line."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from bench.records.terminal import plain

_MAX_WORDS = 1000


class Html(str):
    """HTML that is taken as it is."""


def shown(value: object) -> Html:
    """A value as HTML: escaped, without what is invisible or turns the direction of writing, unless it is Html."""
    return value if isinstance(value, Html) else Html(html.escape(plain(value, _MAX_WORDS)))


def link(address: str, words: object) -> Html:
    """A link; the address is one that is safe in every page, such as a file's name or a part of this page."""
    return Html(f'<a href="{html.escape(address)}">{shown(words)}</a>')


def listed(items: Iterable[object]) -> Html:
    """Sentences, one under the other; nothing where there are none."""
    found = "".join(f"<li>{shown(item)}</li>" for item in items)
    return Html(f"<ul>{found}</ul>" if found else "")


def table(
    caption: str,
    headers: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    numbers: Sequence[int] = (),
    words: Sequence[int] = (),
    ids: Sequence[str] = (),
    cards: bool = False,
) -> Html:
    """A table whose first column names the row.

    The columns in `numbers` stand to the right, and those in `words` may be broken into several lines.
    `ids` are those of the rows. With `cards` a row is a card of its own where the page is narrow.
    """
    kinds = [_kind(place in numbers, place in words) for place in range(len(headers))]
    names = [shown(header) for header in headers]
    head = "".join(f'<th scope="col"{each}>{name}</th>' for each, name in zip(kinds, names, strict=True))
    told = [f' data-name="{name}"' if cards else "" for name in names]
    body = []
    for place, row in enumerate(rows):
        first, *rest = map(shown, row)
        cells = "".join(
            f"<td{each}{name}>{cell}</td>" for each, name, cell in zip(kinds[1:], told[1:], rest, strict=True)
        )
        own = f' id="{ids[place]}"' if ids else ""
        body.append(f'<tr{own}><th scope="row"{kinds[0]}>{first}</th>{cells}</tr>\n')
    kind = ' class="cards"' if cards else ""
    return Html(
        f'<div class="wide" tabindex="0" role="region" aria-label="{shown(caption)}"><table{kind}>'
        f"<caption>{shown(caption)}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{''.join(body)}</tbody></table></div>\n"
    )


def _kind(is_number: bool, is_words: bool) -> str:
    return ' class="n"' if is_number else ' class="long"' if is_words else ""
