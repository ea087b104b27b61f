"""The leak scan: no secret of a test run in anything that servers and commands say (ASVS 16.2.5).

`plugin` brings it into every run of pytest, `hooks` sees what goes in and out, `sightings` knows
what of it is secret and where a secret is shown by design, `watch` searches, `spellings` writes a
secret in all ways in which it could be found.
"""
