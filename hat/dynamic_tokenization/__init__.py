"""Subword models whose tokens are merged further as they read: fewer positions for the same text."""
