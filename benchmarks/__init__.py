"""Ours beside a peer, one file a claim. Figures are ratios of alternating runs on one machine."""
