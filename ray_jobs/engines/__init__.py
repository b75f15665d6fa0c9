"""Where answers come from: one file a kind, one frozen config each, all behind the seam in
`seam.py`.
"""
