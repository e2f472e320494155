package sample

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

const (
	goVersion = "go1.22.1"
	pageSize  = 0x1000
	textBase  = 0x400000
	dataBase  = textBase + pageSize
)

// knownSums are the go.sum entries of the modules, as a real binary has them.
var knownSums = map[string]string{
	"golang.org/x/net@v0.7.0":  "h1:rJrUqqhjsgNp7KqAIc25s9pZnjU7TUcSY7HcVZjdn1g=",
	"golang.org/x/text@v0.3.7": "h1:olpwvP2KacW1ZWvsR7uQhoyTYvKAupfQrRGBFM352Gk=",
}

// goProgram is a linux/amd64 executable that exits 0 at once and carries the
// build information of a Go program with the given modules. Layout: one page
// with headers and code, mapped read-execute; then the build information,
// mapped read-write, as debug/buildinfo and scanners look for it.
func goProgram(modules []Package) []byte {
	data := buildInfo(modules)
	names := "\x00.text\x00.go.buildinfo\x00.shstrtab\x00"
	code := []byte{0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05} // mov eax,60; xor edi,edi; syscall
	const headers, programs, codeAt = 64, 2 * 56, 64 + 2*56
	namesAt := pageSize + len(data)
	sectionsAt := (namesAt + len(names) + 7) &^ 7

	var out bytes.Buffer
	put := func(v any) { must(binary.Write(&out, binary.LittleEndian, v)) }
	head := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Entry: textBase + codeAt,
		Phoff: headers, Shoff: uint64(sectionsAt), Ehsize: 64, Phentsize: 56, Phnum: 2, Shentsize: 64, Shnum: 4, Shstrndx: 3,
	}
	copy(head.Ident[:], elf.ELFMAG)
	head.Ident[elf.EI_CLASS], head.Ident[elf.EI_DATA], head.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	put(head)
	segment := func(flags elf.ProgFlag, offset, address, size uint64) {
		put(elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(flags), Off: offset, Vaddr: address, Paddr: address,
			Filesz: size, Memsz: size, Align: pageSize})
	}
	segment(elf.PF_R|elf.PF_X, 0, textBase, uint64(codeAt+len(code)))
	segment(elf.PF_R|elf.PF_W, pageSize, dataBase, uint64(len(data)))
	out.Write(code)
	out.Write(make([]byte, pageSize-out.Len()))
	out.Write(data)
	out.WriteString(names)
	out.Write(make([]byte, sectionsAt-out.Len()))
	section := func(name string, kind elf.SectionType, flags elf.SectionFlag, address, offset, size uint64) {
		at := strings.Index(names, name+"\x00")
		put(elf.Section64{Name: uint32(at), Type: uint32(kind), Flags: uint64(flags), Addr: address, Off: offset, Size: size, Addralign: 1})
	}
	put(elf.Section64{})
	section(".text", elf.SHT_PROGBITS, elf.SHF_ALLOC|elf.SHF_EXECINSTR, textBase+codeAt, codeAt, uint64(len(code)))
	section(".go.buildinfo", elf.SHT_PROGBITS, elf.SHF_ALLOC|elf.SHF_WRITE, dataBase, pageSize, uint64(len(data)))
	section(".shstrtab", elf.SHT_STRTAB, 0, 0, uint64(namesAt), uint64(len(names)))
	return out.Bytes()
}

// buildInfo is the record Go 1.18 and later link into every program: magic,
// pointer size, flags (2: strings follow), padding to 32 bytes, the version and
// the module list, each with its length as a varint. The list stands between
// two fixed markers of 16 bytes.
func buildInfo(modules []Package) []byte {
	var list strings.Builder
	list.WriteString("path\texample.org/demo/cmd/demo\nmod\texample.org/demo\tv1.0.0\t\n")
	for _, m := range modules {
		fmt.Fprintf(&list, "dep\t%s\t%s\t%s\n", m.Name, m.Version, knownSums[m.Name+"@"+m.Version])
	}
	list.WriteString("build\t-compiler=gc\nbuild\tCGO_ENABLED=0\nbuild\tGOARCH=amd64\nbuild\tGOOS=linux\n")
	begin, err := hex.DecodeString("3077af0c9274080241e1c107e6d618e6")
	must(err)
	end, err := hex.DecodeString("f932433186182072008242104116d8f2")
	must(err)

	out := make([]byte, 32)
	copy(out, "\xff Go buildinf:")
	out[14], out[15] = 8, 2
	for _, s := range []string{goVersion, string(begin) + list.String() + string(end)} {
		out = binary.AppendUvarint(out, uint64(len(s)))
		out = append(out, s...)
	}
	return out
}
