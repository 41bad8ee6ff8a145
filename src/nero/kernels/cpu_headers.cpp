// What the tensors of a step look like and where they lie, read by one call instead of by several
// attributes of each in Python. Knows of Python and torch only what DLPack's C interface says
// (github.com/dmlc/dlpack, version 1): addresses of two functions come in.
#include <cstdint>

namespace {

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

using Item = void* (*)(void* list, int64_t index);      // PyList_GetItem: a borrowed reference
using ReadHeader = int (*)(void* object, Header* out);  // 0, or -1 with a Python error set

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
};

}  // namespace

// Writes the addresses of the first entries of the `count` tensors in a Python list, and compares
// all else that their headers say with `notes`, which it brings up to date. Returns 0 where nothing
// has changed, the count of numbers to be noted where something has (more than `capacity` if they
// did not fit), and -1, with a Python error set, where there is an object that is no such tensor.
// Python's lock must be held.
extern "C" __attribute__((visibility("default"))) int64_t nero_headers(
    void* list, int64_t count, Item item, ReadHeader read_header, uint64_t* addresses,
    int64_t* notes, int64_t capacity) {
  Notes noted{notes, capacity};
  noted.add(count);
  for (int64_t i = 0; i < count; ++i) {
    Header header;
    void* object = item(list, i);
    if (!object || read_header(object, &header)) return -1;
    addresses[i] = (uint64_t)header.data + header.offset;
    noted.add(header.device_type);
    noted.add(header.kind << 8 | header.bits);
    noted.add(header.axes);
    for (int32_t axis = 0; axis < header.axes; ++axis) {
      noted.add(header.shape[axis]);
      noted.add(header.strides[axis]);
    }
  }
  return noted.changed || noted.count > capacity ? noted.count : 0;
}
