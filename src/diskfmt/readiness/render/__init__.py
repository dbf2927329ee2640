"""Reports in the forms that people and other programs read. Pure: a report in, text out."""
