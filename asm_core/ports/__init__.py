"""What the core needs from outside, as Protocols. Every method names its errors; nothing here is executed."""
