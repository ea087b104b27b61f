"""What tests of several parts share; fixtures come to tests through tests/conftest.py."""
