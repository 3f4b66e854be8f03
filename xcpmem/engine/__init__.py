"""The brain: plain arithmetic on frozen values."""
