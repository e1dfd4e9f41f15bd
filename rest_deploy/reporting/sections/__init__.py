"""The sections of the report: each a function of the records, empty where they have nothing for it."""
