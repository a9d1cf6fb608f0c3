"""Building: plan, fragments, the pipeline, the commit. (Not called `build`: that is the public function's name.)"""
