"""What the product does, one verb per function; used by web, cli and scripts alike."""
