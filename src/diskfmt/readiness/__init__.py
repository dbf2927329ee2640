"""Judging an image before it is converted."""
