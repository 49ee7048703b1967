// The activation functions: KIND 0 ReLU; 1 SiLU x / (1 + e^-x); 2 GELU with erf; 3 GELU with tanh.
//
// erf by Abramowitz and Stegun 7.1.26, |error| < 1.5e-7.

override KIND: u32 = 0;

fn erf(v: f32) -> f32 {
  let t = 1.0 / (1.0 + 0.3275911 * abs(v));
  let poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return sign(v) * (1.0 - poly * exp(-v * v));
}

fn activate(v: f32) -> f32 {
  if (KIND == 0) { return max(v, 0.0); }
  if (KIND == 1) { return v / (1.0 + exp(-v)); }
  if (KIND == 2) { return 0.5 * v * (1.0 + erf(v * 0.70710678)); }
  let inner = clamp(0.79788456 * (v + 0.044715 * v * v * v), -15.0, 15.0); // tanh may overflow
  return 0.5 * v * (1.0 + tanh(inner));
}

