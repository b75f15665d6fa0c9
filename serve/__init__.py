"""Endpoints: the judge as a Ray Serve application."""
