"""What names and labels have of tags, entities and bars is text in a page of markdown."""

from __future__ import annotations

from sage_ray.reports.markdown_page import markdown
from sage_ray.reports.page_parts import Bullets, Chapter, Code, Grid, Page, Paragraph


def test_tags_and_entities_are_text_and_code_stays_as_it_is() -> None:
    label = "<b>bold</b> & <script>alert(1)</script> &amp; a|b"
    parts = [
        Paragraph(f"{label} is better (p < .05), as `<label>` says"),
        Bullets([label]),
        Grid(("arm", "Dice"), [(label, "0.5")], texts=(0,)),
        Code("sage-ray report '<b>' && echo &amp;", language="sh"),
    ]
    lines = markdown(Page(label, label, [Chapter("answer", label, parts)], foot=label)).splitlines()
    code = lines.index("sage-ray report '<b>' && echo &amp;")
    text = "\n".join(lines[:code] + lines[code + 1 :])
    assert "<b>" not in text and "<script>" not in text and "</b>" not in text
    assert text.count("&lt;b>bold&lt;/b> & &lt;script>alert(1)&lt;/script> &amp;amp; a") == 7
    assert "(p < .05), as `<label>` says" in text
    (row,) = (line for line in lines if line.startswith("| ") and line.endswith("| 0.5 |"))
    assert row.replace("\\|", "").count("|") == 3, "the bar of a name ends no column"
