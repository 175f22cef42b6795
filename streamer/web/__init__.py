"""The page: what a running daemon shows of its dataset. Needs the extra `web`, so nothing here is imported before."""
