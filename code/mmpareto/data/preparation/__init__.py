"""Preparation: raw files → a prepared folder, in parallel and resumable; its report, check and contact sheet."""
