"""What several systems run: problems, trainings and ways to measure, each moved here once a second one wanted it."""
