"""Draw what each student reached against the accuracy of its teacher.

python recipes/choosing/pictures.py runs/choosing-students runs/choosing-teachers/evaluation.json
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).parents[1]))
from drawing import chosen, results, save


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where train.py keeps its results")
    parser.add_argument("evaluation", type=Path, help="where build.py keeps what it found about the teachers")
    options = parser.parse_args()
    students = results(options.folder)
    found = json.loads(options.evaluation.read_text())["candidates"]
    teachers = {each["teacher"]: 100 * each["metrics"]["accuracy"] for each in found}

    def teachers_and_students(axes):
        for temperature, marker, above in ((1.0, "o", 5), (4.0, "s", -12)):
            points = {}
            for name, accuracy in teachers.items():
                own = chosen(students, teacher=name, temperature=temperature)
                if own:
                    points[name] = (accuracy, mean(each["accuracy"] for each in own))
            axes.scatter(*zip(*points.values(), strict=True), marker=marker, label=f"T = {temperature:g}")
            for name, point in points.items():
                axes.annotate(name, point, (-10, above), textcoords="offset points", fontsize="small")
        hard = mean(each["accuracy"] for each in chosen(students, teacher="hard labels"))
        axes.axhline(hard, color="gray", linestyle="dotted", label="hard labels")
        axes.set(xlabel="accuracy of the teacher, %", ylabel="accuracy of the student, %")

    save(options.folder, (teachers_and_students,))


if __name__ == "__main__":
    main()
