"""The only room where a cfg becomes objects."""
