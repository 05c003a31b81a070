"""Functions that make HTML. They escape text unless it is `Html` already, and put pictures into the page itself."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import torch
from PIL import Image

from episodic.config.terminal import printable
from episodic.data.store import ImageStore
from episodic.report.plots import Picture


class Html(str):
    """Text that is HTML already, so that it is not escaped again."""


def escaped(text: str) -> Html:
    return text if isinstance(text, Html) else Html(html.escape(printable(text, keep="\n\t")))


def joined(*parts: str) -> Html:
    return Html("\n".join(escaped(part) for part in parts))


def tag(name: str, /, *parts: str, **attributes: str | int) -> Html:
    """The element `<name key="value">parts</name>`. The argument `class_` gives `class`, and `aria_label` gives `aria-label`."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(printable(value))}"' for key, value in attributes.items()
    )
    return Html(f"<{name}{said}>{''.join(escaped(part) for part in parts)}</{name}>")


def void(name: str, /, **attributes: str | int) -> Html:
    """An element without content, such as `img`."""
    return Html(tag(name, **attributes).removesuffix(f"</{name}>"))


def data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def figure(picture: Picture, caption: str, *, wide: bool = False) -> Html:
    """A picture for light and dark pages, with a caption. On small screens a `wide` one scrolls in a box of its own."""
    dark = void("source", media="(prefers-color-scheme: dark)", srcset=data_uri(picture.dark))
    shape = {"width": picture.width, "height": picture.height}
    image = tag("picture", dark, void("img", src=data_uri(picture.light), alt=picture.alt, **shape))
    if wide:
        image = tag("div", image, class_="scroll wide", tabindex=0, role="group", aria_label=f"{picture.name}, scrolls")
    return tag("figure", image, tag("figcaption", caption))


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Html:
    """A table whose first cell of a row is its heading. Where it is too wide it scrolls in a box of its own."""
    head = tag("tr", *(tag("th", cell, scope="col") for cell in header))
    body = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows]
    whole = tag("table", tag("thead", head), tag("tbody", *body))
    box = tag("div", whole, class_="scroll", tabindex=0, role="group", aria_label=caption)
    return tag("figure", tag("figcaption", caption), box)


def thumbnail(store: ImageStore, item: int) -> Html:
    """A small picture of the image number `item`."""
    array = store.gather(torch.tensor([item]))[0].cpu().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[-1] != 3 else array).save(file, "png")
    return void("img", src=data_uri(file.getvalue()), alt=store.item_names[item], width=56, height=56, class_="thumb")


STYLE = """
:root { color-scheme: light dark; --page: #ffffff;
  --text: #1d1d1f; --muted: #5f6368; --line: #dcdcdc; --card: #f5f6f7; --link: #005a9c }
@media (prefers-color-scheme: dark) {
  :root { --page: #17181b; --text: #e8e8ea; --muted: #a3a6ab; --line: #3c3e43; --card: #222429; --link: #7cc4f2 }
}
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100% }
body { margin: 0 auto; max-width: 60rem; padding: 1.25rem 1rem 4rem; background: var(--page); color: var(--text);
  font: 1rem/1.55 system-ui, sans-serif; font-variant-numeric: tabular-nums; overflow-wrap: anywhere }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem } h2 { font-size: 1.25rem; margin: 2.75rem 0 .5rem }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .5rem } p { max-width: 44rem; margin: .5rem 0 } a { color: var(--link) }
.protocol, figcaption { color: var(--muted) }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .75rem; margin: 1.25rem 0; padding: 0 }
.card { background: var(--card); border-radius: .6rem; padding: .75rem 1rem; margin: 0 }
.card dt { color: var(--muted); font-size: .9rem } .card dd { margin: 0; font-size: 1.35rem; font-weight: 600 }
.card dd + dd { font-size: .9rem; font-weight: 400; color: var(--muted) }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .35rem 1.1rem; padding: 0; margin: 1rem 0 }
nav a { display: inline-block; padding: .2rem 0 }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .93rem; margin: 1rem 0 }
.facts dt { color: var(--muted) } .facts dd { margin: 0 }
@media (max-width: 30rem) { .facts { grid-template-columns: 1fr } .facts dd { margin-bottom: .4rem } }
figure { margin: 1rem 0 } figcaption { font-size: .9rem; max-width: 44rem; text-align: left; margin-top: .35rem }
img { max-width: 100%; height: auto; display: block }
.scroll { overflow-x: auto; max-width: 100% } .wide img { min-width: min(100rem, 40rem) }
.scroll:focus-visible, a:focus-visible { outline: 2px solid var(--link); outline-offset: 2px }
table { border-collapse: collapse; font-size: .92rem } thead th { color: var(--muted); border-bottom: 2px solid var(--line) }
thead th { white-space: nowrap }
th, td { text-align: left; padding: .35rem .9rem .35rem 0; vertical-align: middle; font-weight: 400; overflow-wrap: normal }
tbody th, tbody td { border-bottom: 1px solid var(--line) } tbody th { overflow-wrap: break-word }
.thumb { width: 56px; height: 56px; max-width: none; border: 1px solid var(--line); border-radius: 4px; background: #fff }
.with-thumb { display: flex; gap: .6rem; align-items: center; min-width: 12rem; overflow-wrap: break-word }
pre { background: var(--card); border-radius: .6rem; padding: .75rem 1rem; overflow-x: auto; font-size: .88rem }
@media print { body { max-width: none } h2, figure, tr { break-inside: avoid } .wide img { min-width: 0 } }
"""


def document(title: str, *parts: str) -> str:
    """A whole page. It is in ASCII, so that no encoding can garble it, and its policy lets it load nothing from elsewhere."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = joined(
        void("meta", charset="utf-8"),
        void("meta", http_equiv="Content-Security-Policy", content=policy),
        void("meta", name="viewport", content="width=device-width, initial-scale=1"),
        void("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        Html(f"<style>{STYLE}</style>"),
    )
    page = f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{joined(*parts)}\n</body>\n</html>\n'
    return page.encode("ascii", "xmlcharrefreplace").decode()
