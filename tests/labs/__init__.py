"""Labs as tests use them; the fixtures are in tests/system/conftest.py."""
