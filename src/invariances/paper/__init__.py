"""The paper: its table rows, its reported numbers, its claims, and how this project answers them."""
