"""SECURITY.md and README.md claim nothing that no test shows."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "SECURITY.md").read_text()
README = (ROOT / "README.md").read_text()
CITED = sorted(set(re.findall(r"`([\w/-]+\.(?:py|rs))::(\w+)`", TEXT + README)))
THREATS = [line for line in TEXT.splitlines() if line.startswith("| ") and line.count("|") == 4]


@pytest.mark.parametrize("file, name", CITED, ids=lambda value: value)
def test_it_exists(file, name):
    kind = r"def" if file.endswith(".py") else r"fn"
    assert re.search(rf"^\s*{kind} {name}\(", (ROOT / file).read_text(), re.MULTILINE), (file, name)


def test_each_threat_names_a_test():
    assert len(CITED) > 50
    headings = [line for line in THREATS if line.endswith(" shown by |")]
    rows = [line for line in THREATS if "---" not in line and line not in headings]
    shown = [row for row in rows if "::" in row.split("|")[3]]
    parties = [row for row in rows if row.startswith("| **") or row.startswith("| party")]
    assert len(headings) == 6 and sorted(shown + parties) == sorted(rows)


def test_each_cell_of_the_hosts_table_names_a_test():
    table = README.split("| | Envoy | Kong's runtime | wasi:http host |\n")[1].split("\n\n")[0].splitlines()[1:]
    assert len(table) > 10
    for row in table:
        envoy, kong, wasi = row.split("|")[2:5]
        assert "::" in kong and all("::" in cell or "`make " in cell for cell in (envoy, wasi)), row
