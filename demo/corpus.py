"""Extracts the text that the demo model learns from the Rust documentation that rustup installs.

Usage: corpus.py DOC_HTML OUT_DIR, where DOC_HTML is `$(rustc --print sysroot)/share/doc/rust/html`.
Writes train.txt, valid.txt and heldout.txt. Needs the Python standard library alone, and gives the
same bytes for the same documentation.

Only sources under MIT OR Apache-2.0 are read; the embedded book (CC-BY-SA prose) is left out.
"""
import hashlib
import html.parser
import pathlib
import re
import sys

# Folder, then subfolders of it that are left out: translations, redirects from old editions, and
# listings of machine instructions that would outweigh all the prose.
SOURCES = [
    ("book", ("2018-edition", "first-edition", "second-edition")),
    ("reference", ()),
    ("nomicon", ()),
    ("rust-by-example", ("es", "ja", "ko", "zh")),
    ("edition-guide", ()),
    ("cargo", ()),
    ("rustc", ()),
    ("rustdoc", ()),
    ("clippy", ()),
    ("style-guide", ()),
    ("unstable-book", ()),
    ("error_codes", ()),
    ("std", ("arch", "simd")),
    ("alloc", ()),
    ("proc_macro", ()),
    ("test", ()),
]
# Pages that repeat others (whole books on one page, tables of contents, lists of all items), and
# two long lists of one-line entries.
SKIPPED_PAGES = {"print.html", "toc.html", "all.html", "404.html", "SUMMARY.html"} | {
    "CHANGELOG.html",
    "test-summary.html",
}

HELDOUT_BYTES = 190_000
VALID_BYTES = 100_000
# A long page would make up a large part of a small split.
MAX_SPLIT_PAGE = 16_000
# Below this a block is a heading or a word, which may repeat.
MIN_DEDUPE_CHARS = 40
MIN_PAGE_CHARS = 300

VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}
BLOCK = {"p", "div", "section", "details", "summary", "ul", "ol", "blockquote", "table", "tr", "dl"}
SKIPPED_TAGS = {"script", "style", "svg", "button", "nav", "rustdoc-toolbar", "sup", "h6"}
SKIPPED_CLASSES = {
    "anchor", "doc-anchor", "rule", "rule-link", "grammar-railroad", "src", "since", "rightside",
    "sub-heading", "test-arrow", "tooltip", "boring", "rustdoc-breadcrumbs", "hideme", "stab",
    "portability", "buttons", "item-info", "footnote-definition", "grammar-container",
}  # fmt: skip
SKIPPED_IDS = {
    f"{name}{suffix}"
    for name in (
        "trait-implementations", "synthetic-implementations", "blanket-implementations",
        "implementors", "foreign-impls", "auto-implementors", "deref-methods",
    )
    for suffix in ("", "-list")
}  # fmt: skip
# Rust's own pages use typographic quotes; one form of each keeps the vocabulary small.
QUOTES = str.maketrans("\u2018\u2019\u201c\u201d\u00a0", "''\"\" ")


class Page(html.parser.HTMLParser):
    """Turns the main part of a rustdoc or mdBook page into Markdown-like blocks of text."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.blocks = []  # (kind, text); kind is "heading", "code" or "text"
        self.parts = []
        self.stack = []
        self.main_depth = None
        self.skip_depth = None
        self.pre_depth = None
        self.prefix = ""

    def flush(self, kind="text"):
        text = "".join(self.parts)
        self.parts = []
        if kind == "code":
            lines = [line.rstrip() for line in text.strip("\n").split("\n")]
            text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines))
            if text.strip():
                self.blocks.append((kind, f"```\n{text}\n```"))
            return
        text = re.sub(r"\s+", " ", text).strip(" |")
        if text.strip("- "):
            self.blocks.append((kind, self.prefix + text))
            self.prefix = ""

    def handle_starttag(self, tag, attrs):
        if tag in VOID:
            if tag == "br":
                self.parts.append("\n" if self.pre_depth is not None else " ")
            return
        self.stack.append(tag)
        depth = len(self.stack)
        attrs = dict(attrs)
        ident = attrs.get("id") or ""
        if self.main_depth is None:
            # In rustdoc `main` encloses the section that holds the item itself.
            if tag == "main" or ident == "main-content":
                self.main_depth = depth
            return
        if self.skip_depth is not None:
            return
        classes = set((attrs.get("class") or "").split())
        hidden = ident in SKIPPED_IDS or ident.startswith("deref-methods")
        if tag in SKIPPED_TAGS or classes & SKIPPED_CLASSES or hidden:
            self.skip_depth = depth
            return
        if self.pre_depth is not None:
            return
        if tag == "pre":
            self.flush()
            self.pre_depth = depth
        elif tag in ("h1", "h2", "h3", "h4", "h5"):
            self.flush()
            self.prefix = "#" * int(tag[1]) + " "
        elif tag in ("li", "dt"):
            self.flush()
            self.prefix = "- "
        elif tag == "dd":
            self.parts.append(": ")
        elif tag in ("td", "th"):
            self.parts.append(" | ")
        elif tag == "code":
            self.parts.append("`")
        elif tag in BLOCK:
            self.flush()

    def handle_endtag(self, tag):
        if tag in VOID or tag not in self.stack:
            return
        while self.stack:
            top = self.stack.pop()
            self.close_tag(top, len(self.stack) + 1)
            if top == tag:
                return

    def close_tag(self, tag, depth):
        if self.main_depth is None:
            return
        if self.skip_depth is not None:
            if depth == self.skip_depth:
                self.skip_depth = None
            return
        if self.pre_depth is not None:
            if depth == self.pre_depth:
                self.pre_depth = None
                self.flush("code")
        elif tag in ("h1", "h2", "h3", "h4", "h5"):
            self.flush("heading")
            self.prefix = ""
        elif tag == "code":
            self.parts.append("`")
        elif tag in ("li", "dd") or tag in BLOCK:
            self.flush()
        if depth == self.main_depth:
            self.flush()
            self.main_depth = None

    def close_document(self):
        """Emits what is left when a page ends inside its main part."""
        self.close()
        self.flush()

    def handle_data(self, data):
        if self.main_depth is not None and self.skip_depth is None:
            self.parts.append(data.translate(QUOTES))


def read_pages(root):
    """Every page as (path, blocks), in one fixed order."""
    for folder, skipped in SOURCES:
        for path in sorted((root / folder).rglob("*.html")):
            inside = path.relative_to(root / folder).parts
            if inside[0] in skipped or path.name in SKIPPED_PAGES:
                continue
            page = Page()
            page.feed(path.read_text(encoding="utf-8"))
            page.close_document()
            yield path.relative_to(root).as_posix(), page.blocks


def drop_repeats(blocks, seen):
    """Drops blocks already seen on any page, also those that differ in digits alone (u8, u16)."""
    kept = []
    for kind, text in blocks:
        if kind != "heading" and len(text) >= MIN_DEDUPE_CHARS:
            key = hashlib.sha256(re.sub(r"\d+", "0", text).encode()).digest()
            if key in seen:
                continue
            seen.add(key)
        kept.append((kind, text))
    return kept


def drop_empty_headings(blocks):
    """Drops headings with nothing below them before the next heading of the same or a higher level."""
    kept = []
    level_below = 0  # level of the heading after this one, 0 once there is text
    for kind, text in reversed(blocks):
        if kind != "heading":
            level_below = 99
        else:
            level = len(text) - len(text.lstrip("#"))
            if level_below <= level:
                continue
            level_below = level
        kept.append((kind, text))
    return kept[::-1]


def render(blocks):
    """Joins blocks: list items on neighbouring lines, everything else a blank line apart."""
    out = ""
    for _, text in blocks:
        tight = text.startswith("- ") and out.rsplit("\n", 1)[-1].startswith("- ")
        out += ("" if not out else "\n" if tight else "\n\n") + text
    return out


def main():
    root, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    seen = set()
    pages = []
    for path, blocks in read_pages(root):
        text = render(drop_empty_headings(drop_repeats(blocks, seen)))
        if len(text) >= MIN_PAGE_CHARS:
            pages.append((path, text))

    split = {}
    left = {"heldout": HELDOUT_BYTES, "valid": VALID_BYTES}
    for path, text in sorted(pages, key=lambda page: hashlib.sha256(page[0].encode()).digest()):
        size = len(text.encode()) + 3
        name = "heldout" if left["heldout"] > 0 else "valid"
        if left[name] <= 0 or size > MAX_SPLIT_PAGE:
            continue
        left[name] -= size
        split[path] = name

    for name in ("train", "valid", "heldout"):
        chosen = [text for path, text in pages if split.get(path, "train") == name]
        data = "\n\n\n".join(chosen) + "\n"
        (out / f"{name}.txt").write_text(data, encoding="utf-8")
        digest = hashlib.sha256(data.encode()).hexdigest()
        print(f"{name}: {len(chosen)} pages, {len(data.encode())} bytes, sha256 {digest}")


if __name__ == "__main__":
    main()
