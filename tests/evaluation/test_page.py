"""The report page: self-contained, complete, and readable on a phone and on paper."""

from html.parser import HTMLParser



class Page(HTMLParser):
    """The tags of a page, its addresses, its text and the rows of its tables."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.addresses, self.rows, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        self.text += data
        if self.tags and self.tags[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def test_the_page_is_self_contained(finished):
    text = (finished / "report.html").read_text()
    page = Page(text)
    assert len(page.addresses) == 2  # the two figures
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert "url(" not in text and "@import" not in text and "http" not in text


def test_the_page_shows_the_table_the_findings_the_settings_and_the_split():
    record, _ = synthetic()
    page = page_of(record)
    assert page.rows[0] == report.HEADER
    assert [row[0] for row in page.rows[1:4]] == ["gap", "noise", "confidence threshold"]
    assert all(len(row) == len(report.HEADER) for row in page.rows[:4])
    for sentence in report.findings(record):
        assert sentence in page.text
    for key in ("config", "environment", "seconds"):
        assert [name for name in record[key] if name not in [row[0] for row in page.rows]] == []
        assert all([str(k), str(v)] in page.rows for k, v in record[key].items() if not isinstance(v, list))
    assert record["split_digest"] in page.text


def test_the_page_escapes_every_name():
    evil = "<script>\"x\"&'y'"
    record, _ = synthetic()
    for section in ("config", "environment"):
        record[section] = {evil if key == "seed" else key: evil for key in record[section]} | {"num_shadows": 1}
    record["split_digest"] = evil
    record["attacks"] = {evil: record["attacks"]["gap"]}
    page = Page(report.page(record, {evil: b""}))
    assert "script" not in page.tags
    assert page.text.count(evil) >= 8  # the title twice, findings, table, settings, environment and the split
    assert page.rows[1][0] == evil


