// The oracle of server-side apply: the real structured-merge-diff, driven by JSON.
//
// Standard input: {"schema": YAML, "type": NAME, "ops": [{"op": "apply"|"update", "manager": M, "force": B, "object": {...}}]}.
// Standard output: one JSON document an operation: {"object": {...}, "managed": {MANAGER: FIELDS}, "error": TEXT}.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"sigs.k8s.io/structured-merge-diff/fieldpath"
	"sigs.k8s.io/structured-merge-diff/merge"
	"sigs.k8s.io/structured-merge-diff/typed"
)

type sameVersion struct{}

func (sameVersion) Convert(object *typed.TypedValue, _ fieldpath.APIVersion) (*typed.TypedValue, error) {
	return object, nil
}
func (sameVersion) IsMissingVersionError(error) bool { return false }

type operation struct {
	Op, Manager string
	Force       bool
	Object      interface{}
}

func main() {
	var input struct {
		Schema, Type string
		Ops          []operation
	}
	check(json.NewDecoder(os.Stdin).Decode(&input))
	parser, err := typed.NewParser(typed.YAMLObject(input.Schema))
	check(err)
	kind := parser.Type(input.Type)
	updater := &merge.Updater{Converter: sameVersion{}}
	live, err := kind.FromUnstructured(map[string]interface{}{})
	check(err)
	managers := fieldpath.ManagedFields{}
	for _, op := range input.Ops {
		value, err := kind.FromUnstructured(op.Object)
		check(err)
		var failure error
		if op.Op == "apply" {
			var next *typed.TypedValue
			var owners fieldpath.ManagedFields
			next, owners, failure = updater.Apply(live, value, "v1", managers, op.Manager, op.Force)
			if failure == nil {
				managers = owners
			}
			if next != nil {
				live = next
			}
		} else {
			live, managers, failure = updater.Update(live, value, "v1", managers, op.Manager)
		}
		if live.AsValue().IsNull() { // Kubernetes' objects never vanish: they keep their metadata
			live, err = kind.FromUnstructured(map[string]interface{}{})
			check(err)
		}
		answer := map[string]interface{}{"object": live.AsValue().Unstructured()}
		managed := map[string]json.RawMessage{}
		for manager, set := range managers {
			fields, err := set.Set().ToJSON()
			check(err)
			managed[manager] = fields
		}
		answer["managed"] = managed
		if failure != nil {
			answer["error"] = failure.Error()
		}
		text, err := json.Marshal(answer)
		check(err)
		fmt.Println(string(text))
		if failure != nil {
			return
		}
	}
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
