package oci

import (
	"encoding/json"
)

// UnmarshalJSON reads a descriptor whose keys are spelt exactly: Go's decoder would take "Digest" for "digest", others
// would not, and the two would then mean different content.
func (d *Descriptor) UnmarshalJSON(raw []byte) error {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(raw, &keys); err != nil || keys == nil {
		return refuse(ReasonShape, "a descriptor is not an object")
	}
	for _, k := range []string{"mediaType", "digest", "size"} {
		if v, ok := keys[k]; !ok || string(v) == "null" {
			return refuse(ReasonDescriptor, "a descriptor without %q", k)
		}
	}
	known := []string{"mediaType", "digest", "size", "artifactType", "annotations", "platform", "urls", "data"}
	if bad := exactKeys(keys, known); bad != nil {
		return bad
	}
	type plain Descriptor // without this method
	return json.Unmarshal(raw, (*plain)(d))
}

// UnmarshalJSON reads a platform whose keys are spelt exactly.
func (p *Platform) UnmarshalJSON(raw []byte) error {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(raw, &keys); err != nil {
		return refuse(ReasonShape, "a platform is not an object")
	}
	if bad := exactKeys(keys, []string{"os", "architecture", "variant", "os.version", "os.features"}); bad != nil {
		return bad
	}
	type plain Platform
	return json.Unmarshal(raw, (*plain)(p))
}

// exactKeys refuses keys that equal a known key but for case.
func exactKeys(keys map[string]json.RawMessage, known []string) error {
	folded := make(map[string]string, len(keys))
	for k := range keys {
		folded[fold(k)] = k
	}
	for _, want := range known {
		if k, ok := folded[fold(want)]; ok && k != want {
			return refuse(ReasonAmbiguousKeys, "key %s is spelt like %q", clip(k), want)
		}
	}
	return nil
}

// checkBlob checks what is needed to transfer a blob; its media type is of no matter there.
func (d Descriptor) checkBlob(most int64) *Unacceptable {
	d.MediaType, d.Data = "application/octet-stream", nil
	return d.check("blob", most)
}
