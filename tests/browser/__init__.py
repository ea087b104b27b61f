"""What a real browser does with us: headless Chromium, no network beyond loopback."""
