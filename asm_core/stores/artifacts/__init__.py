"""Where artifacts are kept: bytes in `file` or `s3`, their rows in `registry`; `registering` joins the two."""
