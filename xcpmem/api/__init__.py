"""The outer face: XenAPI over HTTP."""
