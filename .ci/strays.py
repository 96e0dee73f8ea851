"""Check that no instruction above x86-64's baseline is outside the code of a higher set.

    python .ci/strays.py UNSTRIPPED STRIPPED

Two builds of the extension module, with symbols and as shipped, must hold the same code. Every set
has its row primitives in objects of their own, whose table xf_<isa>_<type> points at functions of
that object; the symbol table lists the functions object by object. So each function is known by
its set, and its instructions must be of that set. Needs objdump, and pyelftools.
"""

from __future__ import annotations

import re
import subprocess
import sys
from bisect import bisect_right
from collections import Counter
from pathlib import Path

from elftools.elf.elffile import ELFFile

# What x86-64 without any extension lacks, from SSE3 on. tzcnt is left out: it is how `rep bsf`
# reads, which old CPUs take for bsf. xgetbv is read only where CPUID allows it.
SSE = re.compile(
    r"(addsub|hadd|hsub|blendv?|round|dp)[ps][sd]|lddqu|movddup|mov[sh][lh]dup|phadd|phsub|psign"
    r"|pabs|pshufb|pmaddubsw|pmulhrsw|palignr|pblend|pmulld|pmuldq|pmin(sb|ud|uw|sd)"
    r"|pmax(sb|ud|uw|sd)|ptest|p(ins|ext)r[bdq]|insertps|extractps|mpsadbw|phminposuw|pmov[sz]x"
    r"|packusdw|pcmpeqq|pcmpgtq|pcmp[ei]str|movntdqa|crc32|aes|pclmul|sha(1|256)"
)
GENERAL = re.compile(
    r"popcnt|lzcnt|andn[lq]?$|bextr|bls(i|r|msk)|bzhi|pdep|pext[lq]?$|mulx|rorx|s(ar|hl|hr)x|movbe"
    r"|ad[co]x|cmpxchg16b"
)
AVX = re.compile(r"v(?!err|erw|mcall|mrun|mload|mmcall)")
EVEX = re.compile(r"%zmm|%[xy]mm(1[6-9]|2\d|3[01])|%k[0-7]|\{z\}|\{1to\d+\}")

# The level of an instruction, and the highest that a set's functions may have.
BASELINE, FOR_AVX2, FOR_AVX512 = range(3)
LEVELS = ("baseline", "AVX2", "AVX-512")
ALLOWED = {"avx2": FOR_AVX2, "avx512": FOR_AVX512}


def level(mnemonic: str, operands: str) -> int:
    """Return the lowest level that has the instruction."""
    if EVEX.search(operands):
        return FOR_AVX512
    above = AVX.match(mnemonic) or SSE.match(mnemonic) or GENERAL.match(mnemonic)
    return FOR_AVX2 if above else BASELINE


def functions_by_address(elf: ELFFile) -> list[tuple[int, str, str]]:
    """Return address, name and instruction set ("" where none) of every function."""
    symbols = list(elf.get_section_by_name(".symtab").iter_symbols())
    objects: list[int] = []
    count = 0
    for symbol in symbols:
        count += symbol["st_info"]["type"] == "STT_FILE"
        # Global symbols follow those of all objects, and belong to none of them.
        objects.append(count if symbol["st_info"]["bind"] == "STB_LOCAL" else 0)
    functions = {
        symbol["st_value"]: (symbol.name, number)
        for symbol, number in zip(symbols, objects, strict=True)
        if symbol["st_info"]["type"] == "STT_FUNC" and symbol["st_value"]
    }
    targets = {
        relocation["r_offset"]: relocation["r_addend"]
        for section in elf.iter_sections("SHT_RELA")
        for relocation in section.iter_relocations()
    }
    isa_of_object: dict[int, str] = {}
    for symbol in symbols:
        table = re.fullmatch(r"xf_([a-z0-9]+)_f(32|64)", symbol.name)
        if table and symbol["st_info"]["type"] == "STT_OBJECT":
            places = range(symbol["st_value"], symbol["st_value"] + symbol["st_size"], 8)
            found = {functions[targets[place]][1] for place in places if place in targets}
            if len(found) != 1 or not found.isdisjoint(isa_of_object):
                sys.exit(f"{symbol.name} must point into one object of its own, got {found}")
            isa_of_object[found.pop()] = table[1]
    if not set(ALLOWED) < set(isa_of_object.values()):
        sys.exit(f"tables of base, avx2 and avx512 must be there, got {isa_of_object}")
    return sorted(
        (address, name, isa_of_object.get(number, ""))
        for address, (name, number) in functions.items()
    )


def main(unstripped: str, stripped: str) -> None:
    """Print how many instructions of each level each set has; exit if one is out of place."""
    codes = []
    for path in (unstripped, stripped):
        with Path(path).open("rb") as file:
            elf = ELFFile(file)
            section = elf.get_section_by_name(".text")
            codes.append((section["sh_addr"], section.data()))
            if path == unstripped:
                functions = functions_by_address(elf)
    if codes[0] != codes[1]:
        sys.exit("the module with symbols and the one in the wheel must hold the same code")

    starts = [address for address, _, _ in functions]
    command = ["objdump", "--disassemble", "--no-show-raw-insn", "--wide", unstripped]
    listing = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout
    counts: Counter[tuple[str, int]] = Counter()
    stray = []
    for line in listing.splitlines():
        parts = re.match(r"\s+([0-9a-f]+):\s+(\S+)\s*(.*)", line)
        if not parts:
            continue
        place = bisect_right(starts, int(parts[1], 16)) - 1
        _, name, isa = functions[place] if place >= 0 else (0, "?", "")
        found = level(parts[2], parts[3].split("#")[0])
        counts[isa or "elsewhere", found] += 1
        if found > ALLOWED.get(isa, BASELINE):
            stray.append(f"{name} ({isa or 'no set'}): {parts[2]} {parts[3]}")
    for (isa, found), count in sorted(counts.items()):
        print(f"{isa:9} {LEVELS[found]:8} {count:6} instructions")
    if stray:
        sys.exit("\n".join([f"{len(stray)} instructions above their function's set:", *stray[:20]]))
    for isa, needed in ALLOWED.items():
        if not counts[isa, needed]:
            sys.exit(f"{isa} must have instructions of its own: is this check still right?")


if __name__ == "__main__":
    main(*sys.argv[1:])
