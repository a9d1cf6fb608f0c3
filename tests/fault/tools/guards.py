"""What protects a cache: each guard's file, its exact source, a source without it, and the tests that must notice."""

from typing import NamedTuple


class Guard(NamedTuple):
    file: str
    source: str
    mutant: str
    tests: str


CONTRACT, DAMAGE, DOCUMENTS = "contract/test_files.py", "fault/test_damage.py", "unit/store/test_documents.py"
DURABLE = "fault/test_durability.py -k order"
FORGED, MAPPED, MANIFEST = "fault/test_forged.py", "fault/test_mapped_files.py", "fault/test_manifest.py"
COMMITTERS, VERIFY, BUILD = "fault/test_committers.py", "fault/test_verify.py", "integration/test_build.py"
TURNS = "fault/test_gc_turns.py"
GC = "fault/test_gc.py"

GUARDS = [
    # Durability, and creating without overwriting.
    Guard("store/files/local.py", "os.fsync(f.fileno())", "pass", DURABLE),
    Guard("store/files/local.py", "f.flush()", "pass", DURABLE),
    Guard("store/files/local.py", "before this.\n                _sync_folder(final.parent)", "", DURABLE),
    Guard("store/files/local.py", "final)\n            _sync_folder(final.parent)", "final)", DURABLE),
    Guard("store/files/local.py", "_sync_folder(folder.parent)", "pass", DURABLE),
    Guard("store/files/local.py", "_sync_folder(self._at(folder))", "pass", "fault/test_durability.py -k killed"),
    Guard("store/files/local.py", "os.fsync(handle)", "pass", DURABLE),
    Guard("store/files/local.py", "or not folder.parent.is_dir():", ":", DURABLE),
    Guard("builder/publish/commit.py", "files.settle(folder)", "pass", "fault/test_durability.py -k killed"),
    Guard("store/files/local.py", "os.link(temporary, final)", "shutil.copy(temporary, final)", f"{CONTRACT} -k never"),
    Guard("store/files/local.py", "temporary.unlink(missing_ok=True)", "pass", f"{FORGED} -k half"),
    Guard("store/files/local.py", " if not n.startswith(TEMPORARY)", "", f"{CONTRACT} -k unfinished"),
    Guard("store/files/local.py", "self.root / check_path(path)", "self.root / path", f"{CONTRACT} -k paths"),
    Guard("store/files/local.py", "not stat.S_ISREG(os.fstat(handle).st_mode)", "False", f"{MAPPED} -k pipes"),
    Guard("store/files/base.py", "sha256(self.read(path)) != sha256(data)", "False", f"{CONTRACT} -k compares"),
    Guard("store/files/base.py", "self.touch(path)", "pass", f"{GC} -k gc_leaves"),
    Guard("store/files/remote.py", '(p, bytes(data), mode="create")', "(p, data)", f"{CONTRACT} -k never"),
    Guard("store/files/remote.py", "if self.size(path) is None:", "if False:", f"{CONTRACT} -k another_form"),
    Guard(
        "store/files/remote.py", "not puts_whole_files(type(self._filesystem()[0]))", "False", f"{CONTRACT} -k stream"
    ),
    Guard("store/files/remote.py", "if not honoured:", "if False:", f"{CONTRACT} -k ignores"),
    Guard(
        "store/files/remote.py", "fetched.size(name) != size", "fetched.size(name) is None", f"{MAPPED} -k local_copy"
    ),
    Guard("store/files/remote.py", "sha256(data) != digest", "False", f"{CONTRACT} -k local_copies"),
    Guard("store/files/remote.py", "{check_path(path)}", "{path}", f"{CONTRACT} -k paths"),
    Guard("builder/prepare/prepared.py", "        files.check_writable()", "        pass", f"{FORGED} -k create_only"),
    Guard("builder/prepare/prepared.py", "    check_output(files)", "    pass", "integration/test_output.py"),
    # Paths.
    Guard("store/layout.py", "_FORBIDDEN.search(path) or", "", "unit/store/test_layout.py"),
    Guard("store/layout.py", '("", ".", "..")', '("", ".")', "unit/store/test_layout.py"),
    Guard("store/layout.py", '("", ".", "..")', '(".", "..")', "unit/store/test_layout.py"),
    Guard("store/layout.py", '("", ".", "..")', '("", "..")', "unit/store/test_layout.py"),
    *(
        Guard("store/layout.py", r"[\x00-\x1f\x7f\\:%?#*\[\]]", rf"[{left}]", "unit/store/test_layout.py")
        for left in (r"\\:%?#*", r"\x00-\x1f:%?#*", r"\x00-\x1f\\%?#*", r"\x00-\x1f\\:?#*", r"\x00-\x1f\\:%")
    ),
    Guard("store/shards.py", "check_path(self.path)", "pass", f"{FORGED} -k path"),
    Guard("store/shards.py", "check_path(self.path)", "pass", f"{MANIFEST} -k paths"),
    # Documents, the marker, commits, receipts.
    Guard("store/documents.py", "files.read(path, MAX_BYTES)", "files.read(path)", f"{FORGED} -k document"),
    Guard("store/documents.py", "> MAX_VALUES", "< 0", "unit/store/test_documents.py"),
    Guard("store/documents.py", "if len(found) < len(pairs):", "if False:", "unit/store/test_documents.py"),
    Guard("store/files/local.py", "if limit is not None and", "if False and", f"{FORGED} -k document"),
    Guard("store/documents.py", "sha256(memoryview(data)[:-_ENDING_BYTES]) != ending[1].decode()", "False", DOCUMENTS),
    Guard(
        "store/documents.py",
        "search(data[-_ENDING_BYTES:])\n    if ending is None:",
        "search(data[-_ENDING_BYTES:])\n    if False:",
        DOCUMENTS,
    ),
    Guard("store/documents.py", "if _SURROGATE.search(data):", "if False:", f"{FORGED} -k document"),
    Guard("store/documents.py", "(ValueError, RecursionError)", "ValueError", f"{FORGED} -k document"),
    Guard("store/marker.py", 'body.get("format") != "softcache" or', "", f"{FORGED} -k marker"),
    Guard("store/marker.py", 'or not isinstance(body.get("cache_id"), str)', "", f"{FORGED} -k marker"),
    Guard("store/marker.py", '(version := body.get("version")) != VERSION', "False", f"{VERIFY} -k newer"),
    Guard("store/commits.py", "if not isinstance(features, list | tuple):", "if False:", f"{VERIFY} -k features"),
    Guard("store/commits.py", "for feature in features} - FEATURES", "for feature in ()}", f"{VERIFY} -k features"),
    Guard("store/gc.py", "    check_may_write(files, newest)", "    pass", f"{VERIFY} -k features"),
    Guard(
        "builder/prepare/inventory.py",
        "        check_may_write(files, state.commit)",
        "        pass",
        f"{VERIFY} -k features",
    ),
    # Garbage collection.
    Guard("store/gc.py", "or not is_collectable(path)", "", f"{GC} -k only_what"),
    Guard("store/gc.py", "if not paths or _condemn(files, newest, paths):", "if True:", f"{TURNS} -k sleeps"),
    Guard("store/gc.py", "epoch=number,", "epoch=newest.epoch,", f"{GC} -k condemned_counts"),
    Guard(
        "store/condemned.py",
        "any(file.path in condemned for file in names(found))",
        "False",
        f"{GC} -k loses_its_shard",
    ),
    Guard("store/declarations.py", "    task: dict[str, Any]\n", "", f"{FORGED} -k declaration"),
    Guard("store/commits.py", "numbers and len(numbers) != max(numbers)", "False", f"{VERIFY} -k lost_commit"),
    Guard("store/commits.py", "commit.number != number or", "", f"{FORGED} -k commit"),
    Guard("store/commits.py", 'commit.id_type not in ("int64", "string") or', "", f"{FORGED} -k commit"),
    Guard("store/commits.py", "commit.rows < 1 or", "", f"{FORGED} -k commit"),
    Guard("store/commits.py", "or not commit.index", "", f"{FORGED} -k commit"),
    Guard("store/commits.py", "if commit.parent != expected:", "if False:", f"{VERIFY} -k parent"),
    Guard("store/commits.py", " if there == data else None", "", f"{FORGED} -k publish"),
    Guard("store/commits.py", "        refused = e\n", "        raise\n", f"{FORGED} -k publish"),
    Guard("store/commits.py", "raise refused or StorageError", "raise StorageError", f"{FORGED} -k publish"),
    Guard("store/commits.py", "raise CommitStateUnknown", "raise StorageError", f"{FORGED} -k publish"),
    Guard("store/receipts.py", "return read_receipt(out.files, path)", "return receipt", f"{COMMITTERS} -k bytes"),
    Guard("store/receipts.py", "receipt.shard.unit_key != key", "False", f"{FORGED} -k receipt"),
    Guard("store/state.py", "if latest == 0:", "if False:", f"{VERIFY} -k first_commit"),
    Guard("store/state.py", "number is not None and not 1 <= number <= latest", "False", f"{FORGED} -k no_commit"),
    Guard("store/state.py", "commit.marker_sha256 != marker.sha256", "False", f"{VERIFY} -k another_marker"),
    Guard(
        "store/state.py",
        "check_parent(files, commit, sha256(files.read(commit_path(latest - 1), MAX_BYTES)))",
        "pass",
        f"{VERIFY} -k parent",
    ),
    Guard("store/references.py", "len(data) != reference.bytes", "False", f"{FORGED} -k size"),
    Guard(
        "store/references.py",
        "not check or sha256(memoryview(data)) == reference.sha256",
        "True",
        f"{VERIFY} -k refused_when",
    ),
    Guard("store/references.py", "except FileNotFoundError as e", "except ZeroDivisionError as e", f"{FORGED} -k gone"),
    Guard("store/buffers.py", "self.dtype not in DTYPES or", "", f"{FORGED} -k column_entry"),
    Guard("store/buffers.py", "or min(self.file, self.offset, self.bytes) < 0", "", f"{FORGED} -k column_entry"),
    Guard(
        "store/index.py",
        "any(not 0 <= offset <= len(whole) - 8 * len(self.keys) for offset in self._offsets)",
        "False",
        "fault/test_damage.py -k segment",
    ),
    Guard("store/index.py", "self._checks.touch(blocks, blocks, self._check_block)", "pass", f"{VERIFY} -k index"),
    Guard("store/shards.py", "return 4 if", "return 0 if", f"{DAMAGE} -k swapped"),
]
