"""One file per revision, named by its number; a frozen copy, never edited after a release."""
