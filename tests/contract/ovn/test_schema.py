"""What the fake says of tables and columns is what OVN says."""

from __future__ import annotations

import json

from tests.support.ovn import schema_file
from unkai_scheduler.ovn.fake_schema import UNIQUE_NAMES, northbound_schema


def test_the_fakes_tables_are_ovns() -> None:
    tables = json.loads(schema_file().read_text())["tables"]
    for name, table in northbound_schema().items():
        real = tables[name]
        assert table.is_root == real.get("isRoot", False), name
        assert (["name"] in real.get("indexes", [])) == (name in UNIQUE_NAMES), name
        for column, kind in table.columns.items():
            said = real["columns"][column]["type"]
            said = said if isinstance(said, dict) else {"key": said}
            for part, ours in (("key", kind.key), ("value", kind.value)):
                base = said.get(part)
                base = base if isinstance(base, dict) or base is None else {"type": base}
                assert (base is None) == (ours is None), (name, column)
                if base is None or ours is None:
                    continue
                allowed = base.get("enum", ["set", []])[1]
                assert base["type"] == ours.name, (name, column)
                assert base.get("refTable", "") == ours.refers_to, (name, column)
                strong = "refTable" in base and base.get("refType", "strong") == "strong"
                assert strong == ours.strong, (name, column)
                assert set(allowed) == set(ours.allowed or ()) or not ours.allowed, (name, column)
                limits = base.get("minInteger"), base.get("maxInteger")
                assert limits == (ours.least, ours.most), (name, column)
            least, most = said.get("min", 1), said.get("max", 1)
            assert (kind.least, kind.most or "unlimited") == (least, most), (name, column)
