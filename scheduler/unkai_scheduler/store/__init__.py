"""The database: desire, ownership, operations and events. SQLAlchemy is imported only here.

`unit_of_work` runs plain functions on a `Connection`; each noun has a module of such functions, and
none of them commits. Rows come and go as `domain` dataclasses. `sqlite` holds all that is SQLite's
alone, so that another database needs only its driver and a module like it.
"""
