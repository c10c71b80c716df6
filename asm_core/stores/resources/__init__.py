"""The records as models of SQLAlchemy's ORM. Their public names: `asm_core.resources`."""
