"""Measurements: ratios against a named peer in the same run, by the real perf_analyzer."""
