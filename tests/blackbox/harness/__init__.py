"""What the black-box tests are made of: processes (Redis, nodes, proxies) and clients that check what they get."""
