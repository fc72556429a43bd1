"""OVN's northbound rows, derived from what the store has. Pure: no clock, no I/O, no order of time.

`units.unit_of(view, kind, id)` gives a unit, `affected.affected(view, kind, id)` says which units a
change touches, `view.View` is what both are told. One module for each kind of unit; `names` says
how rows of one unit refer to those of another. docs/design/networks.md, section 4.
"""
