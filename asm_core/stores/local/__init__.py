"""
The queue without Postgres: every transaction of `stores/postgres/*.sql` once more in Python, one file per transaction,
over whatever keeps the records (`memory.py`, `sql/sqlite.py`). What a transaction means is explained in the SQL; here
writers take turns as a whole, so there are no locks to order.
"""
