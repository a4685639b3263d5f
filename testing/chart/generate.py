"""What is derived from other files: the names of settings in the chart's schema (from docs/CONFIGURATION.md), the table of
values in its README (from values.yaml), and its copies of the alerts and the dashboard (from monitoring/).

    python3 testing/chart/generate.py     # writes them; `make test-chart BLESS=1` does so too
"""

import json
import re

import yaml

from render import CHART, CHECKOUT, HERE, render, values

# What the chart ships, and where it is written.
COPIES = {
    "files/rules.yml": "monitoring/prometheus/rules.yml",
    "files/dashboard.json": "monitoring/grafana/dashboard.json",
}
TABLE = re.compile(r"(?<=<!-- values: generated -->\n).*(?=<!-- end -->)", re.DOTALL)


def variables():
    """The daemon's variables by the table in docs/CONFIGURATION.md, and whether each is a secret."""
    page = (CHECKOUT / "docs" / "CONFIGURATION.md").read_text()
    rows = re.findall(r"^\| `([A-Z0-9_]+)` \|[^|]*\|(.*)\|$", page, re.MULTILINE)
    assert len(rows) > 50, "docs/CONFIGURATION.md: its table has another form"
    return {name: text.strip().startswith("*secret*") for name, text in rows}


def schema():
    found = json.loads((CHART / "values.schema.json").read_text())
    names = variables()
    settings = [name for name, secret in names.items() if not secret]
    secrets = ["RABBITMQ_REGULAR_USER_NAME"] + [name for name, secret in names.items() if secret]
    parts = found["properties"]
    parts["config"]["properties"] = {name: {"$ref": "#/definitions/variable"} for name in settings}
    parts["secrets"]["properties"] = {name: {"$ref": "#/definitions/reference"} for name in secrets}
    taken = [*names, *(f"{name}_FILE" for name in secrets[1:])]
    parts["extraEnv"]["items"]["properties"]["name"] = {
        "$comment": "Settings stand in config and secrets.",
        "type": "string",
        "not": {"enum": taken},
    }
    return printed(found) + "\n"


def printed(value, indent=0):
    """JSON with what fits into a line in one line."""
    line = json.dumps(value)
    if not isinstance(value, dict | list) or indent + len(line) <= 110:
        return line
    inner = " " * (indent + 2)
    if isinstance(value, list):
        parts = [inner + printed(item, indent + 2) for item in value]
    else:
        parts = [f"{inner}{json.dumps(key)}: {printed(item, indent + 2)}" for key, item in value.items()]
    first, last = "[]" if isinstance(value, list) else "{}"
    return first + "\n" + ",\n".join(parts) + "\n" + " " * indent + last


def rows():
    """Path, default and comment of each value: one row for each comment that begins with `--`."""
    text = (CHART / "values.yaml").read_text()
    lines = text.splitlines()

    def walk(node, path, documented):
        for key, value in node.value:
            here = f"{path}.{key.value}" if path else key.value
            comment = comment_above(lines, key.start_mark.line)
            if comment:
                yield here, yaml.safe_load(yaml.serialize(value)), comment
            inner = documented or bool(comment)
            if isinstance(value, yaml.MappingNode) and value.value and not comment:
                yield from walk(value, here, inner)
            else:
                assert inner, f"values.yaml: {here} has no comment that begins with `--`"

    return list(walk(yaml.compose(text), "", False))


def comment_above(lines, number):
    above = []
    while number > 0 and lines[number - 1].lstrip().startswith("#"):
        number -= 1
        above.insert(0, lines[number].lstrip().removeprefix("#").strip())
    return " ".join(above).removeprefix("-- ") if above and above[0].startswith("-- ") else ""


def table():
    text = "| value | default | |\n|---|---|---|\n"
    for path, default, comment in rows():
        text += f"| `{path}` | `{json.dumps(default, ensure_ascii=False)}` | {comment.replace('|', chr(92) + '|')} |\n"
    return text


def readme():
    page = (CHART / "README.md").read_text()
    assert TABLE.search(page), "the chart's README has no place for the table of values"
    return TABLE.sub(lambda _: table(), page)


def golden():
    return render(values("minimal")).manifest


def wanted():
    """Path and text of each file that is derived."""
    files = {CHART / "values.schema.json": schema(), CHART / "README.md": readme()}
    for copy, source in COPIES.items():
        if (CHECKOUT / source).exists():
            files[CHART / copy] = (CHECKOUT / source).read_text()
    return files


def write():
    for path, text in wanted().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    # Last, because it depends on the others.
    (HERE / "golden.yaml").write_text(golden())


if __name__ == "__main__":
    write()
    print("[chart] written: schema, table of values, golden rendering, copies of monitoring/")
