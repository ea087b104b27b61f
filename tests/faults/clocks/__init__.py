"""Real server processes whose clocks can be set from outside."""
