"""Building: `build.py` prepares the work, has teachers answer, and publishes. (`build` is the public function's name.)"""
