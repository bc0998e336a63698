"""The tests, a package so that its helpers in `support` are imported by their full names."""
