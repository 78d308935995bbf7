// The one exception the core throws. Its message says what was wrong, what was got, what was wanted and what to do.
#pragma once

#include <cstdio>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace nvfp4 {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

namespace detail {
inline void append(std::string&) {}
template <typename T, typename... Rest>
void append(std::string& out, const T& value, const Rest&... rest) {
  if constexpr (std::is_floating_point_v<T>) {
    char text[32];
    snprintf(text, sizeof(text), "%g", static_cast<double>(value));
    out += text;
  } else if constexpr (std::is_arithmetic_v<T>) {
    out += std::to_string(value);
  } else {
    out += value;
  }
  append(out, rest...);
}
}  // namespace detail

// The concatenation of `parts`.
template <typename... Parts>
std::string message(const Parts&... parts) {
  std::string text;
  detail::append(text, parts...);
  return text;
}

// Throws Error with the concatenation of `parts` unless `condition` holds.
template <typename... Parts>
void check(bool condition, const Parts&... parts) {
  if (!condition) throw Error(message(parts...));
}

}  // namespace nvfp4
