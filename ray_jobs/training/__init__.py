"""Training: chats to tokens, tokens to packs, and one loop without Ray that is exact."""
