// Whether the tensors of a step are as they were at the last one, and where they lie: one call
// instead of several attributes of each tensor in Python. Knows of Python and torch only what their
// C interfaces and DLPack's (github.com/dmlc/dlpack, version 1) say: functions and objects come in
// as addresses, so nothing is linked.
#include <cstdint>
#include <initializer_list>

namespace {

using Object = void*;

// DLTensor of dlpack.h, version 1.
struct Header {
  void* data;
  int32_t device_type, device_index;
  int32_t axes;
  uint8_t kind, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t offset;  // in bytes, of the first entry
};

// What is used of Python and torch. Functions that return an int return -1 with a Python error set.
struct Python {
  Object (*item)(Object list, int64_t index);                               // PyList_GetItem: borrowed
  int (*append)(Object list, Object object);                                // PyList_Append
  Object (*attribute)(Object object, Object name);                          // PyObject_GetAttr: new
  Object (*type)(Object object);                                            // PyObject_Type: new
  int (*next)(Object dict, int64_t* place, Object* key, Object* value);     // PyDict_Next: borrowed
  void (*release)(Object object);                                           // Py_DecRef
  int (*read_header)(Object tensor, Header* out);  // dltensor_from_py_object_no_sync
  Object grad, none, tensor, parameter, buffer;    // the name, None, and classes
};

// Numbers that are compared with those of the last time, and take their place.
struct Notes {
  int64_t* notes;
  int64_t capacity, count = 0;
  bool changed = false;

  void add(int64_t number) {
    if (count < capacity) {
      changed |= notes[count] != number;
      notes[count] = number;
    }
    ++count;
  }
  void add(Object object) { add((int64_t)object); }
};

// Where a tensor lay when it was last looked at: its object, what torch holds about it, and its storage.
struct Lay {
  uint64_t object, body, storage;
};

// Where all that is asked of a parameter lay. Most of it lies there still, but the step before has
// driven it out of the caches: fetching it while the parameters before it are looked at halves the
// time. A guess that only speed depends on, so nothing keeps it alive; zero is no guess.
struct Hint {
  int64_t place;  // of its state in the dictionary of states
  Lay lays[6];    // of the parameter, its gradient, its state and three tensors in that

  // Inlined always: gcc leaves out a call that only fetches, as one without effect.
  __attribute__((always_inline)) void fetch() const {
    for (const Lay& lay : lays) {
      lines(lay.object, 2);
      lines(lay.body, 4);
      lines(lay.storage, 2);
    }
  }

 private:
  __attribute__((always_inline)) static void lines(uint64_t address, uint64_t count) {
    if (address)
      for (uint64_t line = 0; line < count; ++line) __builtin_prefetch((void*)(address + 64 * line));
  }
};
constexpr int64_t AHEAD = 8;

// One walk through the tensors of a step.
struct Look {
  const Python& python;
  Notes notes;
  int64_t next_place = 0;  // in the dictionary of states

  bool is_plain(Object tensor, bool gradient) {
    Object type = python.type(tensor);
    python.release(type);
    return type == python.tensor || (!gradient && (type == python.parameter || type == python.buffer));
  }

  bool read(Object tensor, uint64_t& address) {
    Header header;
    if (python.read_header(tensor, &header)) return false;
    address = (uint64_t)header.data + header.offset;
    notes.add(header.device_type);
    notes.add(header.kind << 8 | header.bits);
    notes.add(header.axes);
    for (int32_t axis = 0; axis < header.axes; ++axis) {
      notes.add(header.shape[axis]);
      notes.add(header.strides[axis]);
    }
    return true;
  }

  // The state of a parameter, or null. It is looked for where it was the last time, after the one
  // before it, and everywhere.
  Object state_of(Object parameter, Object states, int64_t& place) {
    Object key, state;
    for (int64_t start : {place, next_place}) {
      next_place = place = start;
      if (start >= 0 && python.next(states, &next_place, &key, &state) && key == parameter)
        return state;
    }
    for (next_place = place = 0; python.next(states, &next_place, &key, &state); place = next_place)
      if (key == parameter) return state;
    return nullptr;
  }

  // Notes what a state holds: names and, of tensors, where they lie and all else that headers say.
  bool read_state(Object state) {
    Object key, value;
    for (int64_t at = 0; python.next(state, &at, &key, &value);) {
      notes.add(key);
      uint64_t address = 0;
      if (is_plain(value, false) && !read(value, address)) return false;
      notes.add((int64_t)address);
    }
    return true;
  }
};

enum { ERROR = -1, NOT_PLAIN = -2 };

}  // namespace

// Walks through the first `count` parameters of a list that have a gradient: writes the addresses of
// the first entries of each and of its gradient, and compares with `notes`, which it brings up to
// date, which parameters they are, all else that the headers of both say, and all that is to be said of
// the tensors in their states. Gradients are those of a list, one for each parameter, or, where that
// is None, the parameters' own, which are then appended to `found`. `hints` is one for each parameter,
// zeros where nothing is known.
//
// Returns 0 where nothing has changed; the count of numbers to be noted where something has, more than
// `capacity` if they did not fit; NOT_PLAIN where a parameter has no state, or a class with a behaviour
// of its own, or a gradient of such a class; and ERROR, with a Python error set, where there is an
// object without a header. Python's lock must be held.
extern "C" __attribute__((visibility("default"))) int64_t nero_look(
    const Python* python, Object parameters, int64_t count, Object gradients, Object found,
    Object states, uint64_t* addresses, Hint* hints, int64_t* notes, int64_t capacity) {
  Look look{*python, {notes, capacity}};
  for (int64_t i = 0; i < count; ++i) {
    if (i + AHEAD < count) hints[i + AHEAD].fetch();
    Object parameter = python->item(parameters, i), gradient;
    if (!parameter) return ERROR;
    if (!look.is_plain(parameter, false)) return NOT_PLAIN;
    if (gradients == python->none) {
      gradient = python->attribute(parameter, python->grad);
      if (!gradient) return ERROR;
      const bool missing = gradient == python->none;
      const int failed = missing ? 0 : python->append(found, gradient);
      python->release(gradient);  // the list keeps it alive
      if (failed) return ERROR;
      if (missing) continue;
    } else {
      gradient = python->item(gradients, i);
      if (!gradient) return ERROR;
    }
    if (!look.is_plain(gradient, true)) return NOT_PLAIN;
    look.notes.add(parameter);
    Object state = look.state_of(parameter, states, hints[i].place);
    if (!state) return NOT_PLAIN;
    if (!look.read(parameter, *addresses++) || !look.read(gradient, *addresses++)) return ERROR;
    if (!look.read_state(state)) return ERROR;
  }
  look.notes.add(~look.notes.count);  // unlike any address, which longer notes have in this place
  return look.notes.changed || look.notes.count > capacity ? look.notes.count : 0;
}
