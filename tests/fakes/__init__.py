"""
Servers that pretend to be model providers, on loopback: the only pretended thing where provider adapters are tested.

`script.py` says what is answered, `dialect.py` what a protocol must render, one module per protocol how it is said,
`server.py` sends it and records what came in. docs/design/provider-servers.md tells how to point each SDK and CLI here.
"""
