"""What of an HTML page is there to get about, not to be read: navigation, search, the page's footer. Taken out before it is parsed.

By what the page itself says: elements and roles that are landmarks (WAI-ARIA 1.2, 5.3.4), hidden parts, and lists of links that a
class or id calls navigation.
"""

from __future__ import annotations

import re
from typing import Any

MARKED = re.compile(r"<(?:nav|footer)\b|\b(?:role|hidden|aria-hidden)\b|(?:class|id)\s*=\s*[\"'][^\"']*(?:nav|crumb|pag|menu|toc)", re.IGNORECASE)
"""Pages without any of these are left as they are."""
LANDMARKS = "//nav | //*[@role='navigation' or @role='search' or @role='contentinfo' or @role='banner'] | //*[@hidden or @aria-hidden='true'] | //footer[not(ancestor::article or ancestor::main)]"
NAMED = "//*[self::div or self::ul or self::ol or self::p or self::aside or self::section][@class or @id]"
NAMES = frozenset({"nav", "navbar", "navigation", "navlinks", "subnav", "breadcrumb", "breadcrumbs", "pagination", "pager", "menu", "toc"})
PARTS = re.compile(r"[\s_-]+")
LINKS_SHARE = 0.8
"""Of the letters of what is named so, at least so many are links': else it is a text on menus."""


def without_landmarks(source: str) -> str:
    """The page without what leads elsewhere; a page that is nothing else stays as it is."""
    if not MARKED.search(source):
        return source
    from lxml import etree, html

    try:
        page = html.document_fromstring(source.encode(), parser=html.HTMLParser(encoding="utf-8"))
    except (etree.ParserError, ValueError):
        return source
    for found in [*page.xpath(LANDMARKS), *filter(_leads_elsewhere, page.xpath(NAMED))]:
        if found.getparent() is not None:
            found.drop_tree()
    return html.tostring(page, encoding="unicode") if page.text_content().strip() else source


def _leads_elsewhere(element: Any) -> bool:
    names = PARTS.split(f"{element.get('class', '')} {element.get('id', '')}".casefold())
    if NAMES.isdisjoint(names):
        return False
    links = element.xpath(".//a")
    return len(links) > 1 and sum(_letters(link) for link in links) >= LINKS_SHARE * max(1, _letters(element))


def _letters(element: Any) -> int:
    return sum(map(str.isalnum, element.text_content()))
