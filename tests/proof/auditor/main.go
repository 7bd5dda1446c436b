// An auditor that shares no code with holdfast: Go's own packages for signed notes and logs.
//
//	auditor DIR KEY [OLDER-CHECKPOINT]    verify every event of a published log
//	auditor prove EVENT PROOF KEY         verify one event by its .tlog-proof
//	auditor sign PRIVATE-KEY              sign the text on stdin as a note
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	return value
}

func check(err error) { must(0, err) }

// tiles reads the hashes of a published log; Go checks each against the signed root.
type tiles string

func (dir tiles) Height() int                    { return 8 }
func (dir tiles) SaveTiles([]tlog.Tile, [][]byte) {}
func (dir tiles) ReadTiles(wanted []tlog.Tile) (read [][]byte, err error) {
	for _, tile := range wanted {
		data, err := os.ReadFile(filepath.Join(string(dir), strings.Replace(tile.Path(), "tile/8/", "tile/", 1)))
		if err != nil {
			return nil, err
		}
		read = append(read, data)
	}
	return read, nil
}

func head(data []byte, key string) tlog.Tree {
	opened := must(note.Open(data, note.VerifierList(must(note.NewVerifier(key)))))
	lines := strings.Split(opened.Text, "\n")
	root := must(base64.StdEncoding.DecodeString(lines[2]))
	return tlog.Tree{N: must(strconv.ParseInt(lines[1], 10, 64)), Hash: tlog.Hash(root)}
}

func audit(dir, key string, older []string) {
	tree := head(must(os.ReadFile(filepath.Join(dir, "checkpoint"))), key)
	hashes := tlog.TileHashReader(tree, tiles(dir))
	for n := int64(0); n*256 < tree.N; n++ {
		width := min(256, tree.N-n*256)
		path := tlog.Tile{H: 8, L: -1, N: n, W: int(width)}.Path()
		bundle := must(os.ReadFile(filepath.Join(dir, strings.Replace(path, "tile/8/data/", "tile/entries/", 1))))
		var places []int64
		for i := range width {
			places = append(places, tlog.StoredHashIndex(0, n*256+i))
		}
		for i, signed := range must(hashes.ReadHashes(places)) {
			length := binary.BigEndian.Uint16(bundle)
			if tlog.RecordHash(bundle[2:2+length]) != signed {
				check(fmt.Errorf("event %d is not what was signed", n*256+int64(i)))
			}
			bundle = bundle[2+length:]
		}
	}
	for _, path := range older {
		old := head(must(os.ReadFile(path)), key)
		check(tlog.CheckTree(must(tlog.ProveTree(tree.N, old.N, hashes)), tree.N, tree.Hash, old.N, old.Hash))
	}
	fmt.Println("ok", tree.N)
}

func prove(event, proof []byte, key string) {
	lines, checkpoint, _ := bytes.Cut(proof, []byte("\n\n"))
	words := strings.Split(string(lines), "\n")
	index := must(strconv.ParseInt(strings.TrimPrefix(words[1], "index "), 10, 64))
	var hashes tlog.RecordProof
	for _, line := range words[2:] {
		hashes = append(hashes, tlog.Hash(must(base64.StdEncoding.DecodeString(line))))
	}
	tree := head(checkpoint, key)
	check(tlog.CheckRecord(hashes, tree.N, tree.Hash, index, tlog.RecordHash(event)))
	fmt.Println("ok", index)
}

func main() {
	switch os.Args[1] {
	case "sign":
		text := string(must(io.ReadAll(os.Stdin)))
		os.Stdout.Write(must(note.Sign(&note.Note{Text: text}, must(note.NewSigner(os.Args[2])))))
	case "prove":
		prove(must(os.ReadFile(os.Args[2])), must(os.ReadFile(os.Args[3])), os.Args[4])
	default:
		audit(os.Args[1], os.Args[2], os.Args[3:])
	}
}
