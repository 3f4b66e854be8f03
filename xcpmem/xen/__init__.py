"""The hands: real and simulated hosts."""
